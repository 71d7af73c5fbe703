"""The only package that imports Airflow: connections -> settings, errors -> retry or fail, the DAGs' common tasks."""
