FROM notthere AS unused
RUN --mount=from=neither,target=/x y
COPY --from=nope a b
FROM busybox
RUN z
