"""MLflow at the border of its import, for environments without it; test_mlflow.py meets the real one."""

import sys
from types import SimpleNamespace


class FakeServer:
    """What MLflow keeps, and what its client asks for, at the border of the import."""

    def __init__(self) -> None:
        self.runs: list[SimpleNamespace] = []
        self.metrics: list[tuple[str, str, float, int]] = []
        self.ended: list[str] = []
        self.experiments: dict[str, SimpleNamespace] = {}
        self.down = False

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        self.check("GET http://user:secret@there/api")
        return self.experiments.get(name)

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = SimpleNamespace(experiment_id="7")
        return "7"

    def check(self, request: str) -> None:
        if self.down:
            raise sys.modules["mlflow.exceptions"].MlflowException(f"{request}: no connection")

    def search_runs(self, experiments: list[str], *, filter_string: str, max_results: int) -> list[SimpleNamespace]:
        return [run for run in self.runs if f"'{run.name}'" in filter_string]

    def create_run(self, experiment: str, *, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        self.runs.append(SimpleNamespace(name=run_name, info=SimpleNamespace(run_id=f"run {len(self.runs)}")))
        return self.runs[-1]

    def get_metric_history(self, run: str, key: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(step=metric[3]) for metric in self.metrics if metric[:2] == (run, key)]

    def log_metric(self, run: str, key: str, value: float, *, timestamp: int, step: int) -> None:
        self.check("POST http://user:secret@there/api")
        self.metrics.append((run, key, value, step))

    def set_terminated(self, run: str) -> None:
        self.ended.append(run)
