// The gallery: filter, order, overlay and the enlarged view.
// What is chosen stands in the address, so #finding=Mass&status=false+positive&sort=spread&opacity=0.4 can be kept as a link.
"use strict";
(() => {
  const DEFAULTS = { finding: "", status: "", votes: "", sort: "chosen", opacity: "0.6", overlay: "on", members: "off" };
  const place = document.querySelector("#panels");
  if (!place) return;
  const gallery = document.querySelector("#gallery");
  const viewer = document.querySelector("#viewer");
  const help = document.querySelector("#help");
  const panels = [...place.children];
  const state = { ...DEFAULTS };
  let ordered = panels; // as on the screen; moving 500 panels in the document takes half a second, an order does not

  // Asked for once: with 500 panels a look through the page for each of them takes longer than sorting them.
  const choices = new Map(panels.map((panel) => [panel, [...panel.querySelectorAll("input[type=radio]")]]));
  const readings = (panel) => choices.get(panel);
  const shown = (panel) => readings(panel).find((reading) => reading.checked);
  const allControls = [...document.querySelectorAll("[data-control]")];
  const controls = (name) => allControls.filter((control) => control.dataset.control === name);
  const strips = [...document.querySelectorAll("details.members")];
  const called = (reading) => reading.dataset.status.endsWith("positive");
  const matches = (reading) =>
    (!state.finding || reading.dataset.finding === state.finding) &&
    (!state.status || reading.dataset.status === state.status || (state.status === "called" && called(reading))) &&
    (!state.votes || reading.dataset.votes === state.votes);

  function show(panel, reading) {
    reading.checked = true;
    for (const part of panel.querySelectorAll("[data-reading]")) {
      part.toggleAttribute("hidden", part.dataset.reading !== reading.value);
    }
  }

  // The number a panel is ordered by: larger first.
  function rank(panel) {
    const reading = shown(panel).dataset;
    if (state.sort === "chosen") return 0;
    return state.sort === "lowest" ? -Number(reading.probability) : Number(reading[state.sort]);
  }

  function arrange() {
    let matching = 0;
    for (const panel of panels) {
      const found = readings(panel).filter(matches);
      panel.hidden = found.length === 0;
      matching += found.length > 0;
      if (found.length && !matches(shown(panel))) show(panel, found[0]);
    }
    const ranks = new Map(panels.map((panel) => [panel, rank(panel)]));
    ordered = [...panels].sort((a, b) => ranks.get(b) - ranks.get(a) || a.dataset.index - b.dataset.index);
    ordered.forEach((panel, index) => { panel.style.order = index; });
    document.querySelector("#nothing").hidden = matching > 0;
    const total = `${panels.length} image${panels.length === 1 ? "" : "s"}`;
    document.querySelector("#matching").textContent = matching < panels.length ? `${matching} of ${total}` : total;
  }

  function paint(touched = "members") {
    document.documentElement.style.setProperty("--heat", state.opacity);
    document.body.classList.toggle("plain", state.overlay === "off");
    if (touched === "members") for (const strip of strips) strip.open = state.members === "on";
    for (const name of Object.keys(state)) {
      for (const control of controls(name)) {
        if (control.type === "checkbox") control.checked = state[name] === "on";
        else control.value = state[name];
      }
    }
  }

  // Reads the address; values that no control offers are passed over.
  function recall() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(DEFAULTS)) {
      const value = wanted.get(name);
      if (value === null) state[name] = DEFAULTS[name];
      else if (name === "overlay") state.overlay = ["off", "0"].includes(value) ? "off" : "on";
      else if (name === "members") state.members = value === "on" ? "on" : "off";
      else if (name === "opacity") state.opacity = Number(value) >= 0 && Number(value) <= 1 ? value : DEFAULTS.opacity;
      else state[name] = [...controls(name)[0].options].some((option) => option.value === value) ? value : DEFAULTS[name];
    }
  }

  function remember() {
    const chosen = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
    history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
  }

  function change(name, value) {
    state[name] = value;
    paint(name);
    if (!["opacity", "overlay", "members"].includes(name)) arrange();
    remember();
  }

  // The panel itself moves into the dialog and back, so that its choices stay its own.
  function enlarge(panel) {
    giveBack();
    viewer.querySelector(".place").append(panel);
    if (!viewer.open) viewer.showModal();
  }

  function giveBack() {
    const panel = viewer.querySelector(".panel");
    if (panel) place.insertBefore(panel, panels[Number(panel.dataset.index) + 1] ?? null);
    return panel;
  }

  function step(by) {
    const current = giveBack();
    const all = visible().filter((panel) => panel.querySelector(".stage"));
    enlarge(all[(all.indexOf(current) + by + all.length) % all.length]);
  }

  const visible = () => ordered.filter((panel) => !panel.hidden);

  // To the next or previous image: in the enlarged view, else from the one in focus, else from the first on the screen.
  function walk(by) {
    if (viewer.open) return step(by);
    const all = visible();
    const at = all.indexOf(document.activeElement.closest?.(".panel"));
    const first = all.findIndex((panel) => panel.getBoundingClientRect().bottom > 0);
    const next = at < 0 ? all[Math.max(0, first)] : all[Math.min(Math.max(0, at + by), all.length - 1)];
    if (!next) return;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "center" });
  }

  document.addEventListener("input", ({ target }) => {
    const name = target.dataset.control;
    if (name) change(name, target.type === "checkbox" ? (target.checked ? "on" : "off") : target.value);
    else if (target.type === "radio") show(target.closest(".panel"), target);
  });
  document.addEventListener("submit", (event) => event.target.method === "dialog" || event.preventDefault());
  gallery.addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(state, DEFAULTS);
    paint();
    arrange();
    remember();
  });
  gallery.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (target === viewer || button?.matches("[data-close]")) viewer.close();
    else if (button?.matches("[data-help]")) help.showModal();
    else if (button?.matches(".enlarge") && !viewer.open) enlarge(button.closest(".panel"));
    else if (button?.dataset.step) step(Number(button.dataset.step));
  });
  viewer.addEventListener("close", () => giveBack()?.querySelector(".enlarge").focus());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("select, input, textarea");
    const along = { ArrowLeft: -1, ArrowRight: 1, k: -1, j: 1 }[event.key];
    if (help.open || (typing && !["o", "m"].includes(event.key)) || event.target.matches("select")) return;
    if (event.key === "o") change("overlay", state.overlay === "on" ? "off" : "on");
    else if (event.key === "m") change("members", state.members === "on" ? "off" : "on");
    else if (event.key === "?") help.showModal();
    else if (event.key === "Enter" && event.target.matches(".panel") && !viewer.open) event.target.querySelector(".enlarge")?.click();
    else if (along && (viewer.open || event.key.length === 1 || event.target.closest(".panel"))) walk(along);
    else if (event.key === "/" && !viewer.open) {
      event.preventDefault();
      controls("finding")[0].focus();
    }
  });
  window.addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return;
    viewer.close();
    recall();
    paint();
    arrange();
    gallery.scrollIntoView();
  });

  if (location.hash.includes("=")) recall();
  paint();
  arrange();
  if (location.hash.includes("=")) gallery.scrollIntoView();
})();
