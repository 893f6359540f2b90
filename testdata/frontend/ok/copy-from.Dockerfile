FROM busybox AS Build
RUN make
FROM scratch AS second
COPY --from=build /a /a
COPY --from=0 --chown=1:2 /b /b
COPY --from=debian:13 /c /c
COPY --from=files ./d /d
COPY --from=empty / /
FROM second
COPY --from=BUILD *.o /o/
#> context=files=directory
