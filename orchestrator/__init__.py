"""Make it true: plan, schedule, record, report; the command line. The only writer to MLflow."""
