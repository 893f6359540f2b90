FROM busybox AS one
RUN first
FROM nowhere AS two
RUN second
#> target=ONE
#> label=added=last
#> label=a=b
