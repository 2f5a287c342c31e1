"""Kubernetes: what it says is listed and handed to the router, what the router says is shown on the resource."""
