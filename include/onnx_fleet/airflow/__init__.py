"""The one room that knows Airflow: connections -> settings, errors -> retry or fail, the tasks that the DAGs share."""
