"""HTTP: probes, metrics, and the binding API for clients outside of Kubernetes."""
