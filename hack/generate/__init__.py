"""What is made of declarations: the kind, its copy in the chart, pages of docs/, docs/openapi.json."""
