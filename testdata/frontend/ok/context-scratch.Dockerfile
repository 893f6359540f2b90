#> context=base=scratch
FROM base
COPY a /a
FROM busybox
COPY --from=base / /x
