#> network=none
FROM busybox
RUN a
RUN --network=default b
