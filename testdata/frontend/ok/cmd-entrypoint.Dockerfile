FROM full AS a
ENTRYPOINT ["/new"]
FROM full AS b
CMD ["x"]
ENTRYPOINT ["/new"]
FROM full AS c
ENTRYPOINT ["/new"]
CMD ["x"]
FROM full AS d
ENTRYPOINT []
FROM a AS e
CMD []
COPY --from=b / /b
COPY --from=c / /c
COPY --from=d / /d
