FROM busybox AS a
RUN never
#> context=a=directory
