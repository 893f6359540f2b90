#> context=base=directory
FROM base
RUN true
