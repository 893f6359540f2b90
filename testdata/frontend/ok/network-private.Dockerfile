#> network=private
FROM busybox
RUN a
RUN --network=none b
