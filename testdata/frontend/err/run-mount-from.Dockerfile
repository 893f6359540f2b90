FROM busybox AS a
RUN --mount=from=a,target=/x true
RUN --mount=from=b,target=/x true
RUN --mount=from=0,target=/x true
RUN --mount=from=7,target=/x true
RUN --mount=from=Not:Valid:Name,target=/x true
FROM busybox AS b
COPY --from=a x x
