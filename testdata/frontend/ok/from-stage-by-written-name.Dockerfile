FROM busybox AS Builder
RUN made
FROM builder
COPY --from=BUILDER /x /x
