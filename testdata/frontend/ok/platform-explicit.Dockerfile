FROM arm-only
RUN x
#> platform=linux/amd64
