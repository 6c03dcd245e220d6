// The gallery: filter, order, overlay and the enlarged view.
// What is chosen stands in the address, so #finding=Mass&votes=2&sort=spread&opacity=0.4&overlay=off can be kept as a link.
"use strict";
(() => {
  const DEFAULTS = { finding: "", votes: "", sort: "chosen", opacity: "0.6", overlay: "on" };
  const place = document.querySelector("#panels");
  if (!place) return;
  const gallery = document.querySelector("#gallery");
  const viewer = document.querySelector("#viewer");
  const panels = [...place.children];
  const state = { ...DEFAULTS };

  const readings = (panel) => [...panel.querySelectorAll("input[type=radio]")];
  const shown = (panel) => readings(panel).find((reading) => reading.checked);
  const controls = (name) => [...document.querySelectorAll(`[data-control=${name}]`)];
  const matches = (reading) =>
    (!state.finding || reading.dataset.finding === state.finding) &&
    (!state.votes || reading.dataset.votes === state.votes);

  function show(panel, reading) {
    reading.checked = true;
    for (const part of panel.querySelectorAll("[data-reading]")) {
      part.toggleAttribute("hidden", part.dataset.reading !== reading.value);
    }
  }

  function rank(first, second) {
    const key = state.sort === "chosen" ? null : state.sort;
    const difference = key ? Number(shown(second).dataset[key]) - Number(shown(first).dataset[key]) : 0;
    return difference || Number(first.dataset.index) - Number(second.dataset.index);
  }

  function arrange() {
    let matching = 0;
    for (const panel of panels) {
      const found = readings(panel).filter(matches);
      panel.hidden = found.length === 0;
      matching += found.length > 0;
      if (found.length && !matches(shown(panel))) show(panel, found[0]);
    }
    place.append(...[...panels].sort(rank));
    document.querySelector("#nothing").hidden = matching > 0;
    const total = `${panels.length} image${panels.length === 1 ? "" : "s"}`;
    document.querySelector("#matching").textContent = matching < panels.length ? `${matching} of ${total}` : total;
  }

  function paint() {
    document.documentElement.style.setProperty("--heat", state.opacity);
    document.body.classList.toggle("plain", state.overlay === "off");
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
    paint();
    if (name !== "opacity" && name !== "overlay") arrange();
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
    if (panel) arrange();
    return panel;
  }

  function step(by) {
    const current = giveBack();
    const visible = [...place.children].filter((panel) => !panel.hidden && panel.querySelector(".stage"));
    enlarge(visible[(visible.indexOf(current) + by + visible.length) % visible.length]);
  }

  document.addEventListener("input", ({ target }) => {
    const name = target.dataset.control;
    if (name) change(name, target.type === "checkbox" ? (target.checked ? "on" : "off") : target.value);
    else if (target.type === "radio") show(target.closest(".panel"), target);
  });
  document.addEventListener("submit", (event) => event.preventDefault());
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
    else if (button?.matches(".enlarge") && !viewer.open) enlarge(button.closest(".panel"));
    else if (button?.dataset.step) step(Number(button.dataset.step));
  });
  viewer.addEventListener("close", () => giveBack()?.querySelector(".enlarge").focus());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "o" && !event.target.matches("select")) change("overlay", state.overlay === "on" ? "off" : "on");
    const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (along && viewer.open && !event.target.matches("input")) step(along);
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
