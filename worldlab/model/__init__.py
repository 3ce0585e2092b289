"""Inside the world model: losses, the rule that matches posterior and prior, observation scaling, health."""
