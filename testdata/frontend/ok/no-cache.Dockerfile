FROM busybox AS a
RUN one
FROM busybox AS b
RUN one
COPY --from=a /x /x
WORKDIR /w
#> no-cache-filter=B
