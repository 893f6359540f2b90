ARG EMPTY
FROM ${EMPTY} AS a
FROM "" AS b
FROM busybox AS Builder
FROM Builder
FROM ${X:?missing} AS c
FROM a:b:c
