ARG S=a
FROM busybox AS a
FROM busybox
ARG S=a
COPY --from=$S /x /x
RUN --mount=from=$S,target=/x true
