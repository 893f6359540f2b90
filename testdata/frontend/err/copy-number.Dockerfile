FROM busybox
COPY --from=1 a b
COPY --from=-1 a b
