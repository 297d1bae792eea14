"""What is checked before the first step: the config, the data, the weights, the schedules and the metrics."""
