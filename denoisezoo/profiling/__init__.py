"""What a network costs: parameters, multiply-adds, evaluations, time, memory and energy, call by call."""
