"""What a vector environment has to keep, by subject: functions that look at a `Case` and write down what they find."""
