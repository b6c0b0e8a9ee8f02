"""Pages inside the Airflow UI, for whoever may see the factory's DAG."""
