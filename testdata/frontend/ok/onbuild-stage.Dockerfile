FROM debian AS tools
FROM busybox AS base
ONBUILD COPY --from=tools /x /x
ONBUILD RUN trigger
FROM base AS child
RUN own
FROM child
RUN grandchild
