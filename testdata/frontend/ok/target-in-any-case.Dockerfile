#> target=BUILD
FROM busybox AS build
RUN a
FROM busybox
RUN b
