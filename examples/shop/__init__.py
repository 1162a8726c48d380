"""An example project: a shop that does its slow work in tasks."""
