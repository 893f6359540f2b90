{"syntax": "example/other"}
