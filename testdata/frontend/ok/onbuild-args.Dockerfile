FROM busybox AS a
ONBUILD ARG V=1
ONBUILD RUN echo $V
ONBUILD COPY --from=busybox /x /y
ONBUILD USER app
FROM a
RUN id
