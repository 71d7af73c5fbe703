"""The product's own DAG of the fleet (airflow dag), with steps that sleep: see benchmarks/scale.py."""

from pathlib import Path

from benchmarks import sleeping_steps

sleeping_steps.install()
_FILE = Path(__file__).resolve().parents[2] / "dags" / "fleet_reexport.py"
exec(compile(_FILE.read_text(), str(_FILE), "exec"))
