"""A step's own process, with its limits, its fork server and its profile, and the machine that it runs on."""
