FROM busybox
ENTRYPOINT run
CMD stop
FROM full
CMD stop
FROM busybox
SHELL ["sh"]
CMD x
COPY --from=0 / /
