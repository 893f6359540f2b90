FROM scratch
FROM a:1@sha256:00 AS Build-1_x.y
FROM --platform=linux/arm64 $BASE as b
FROM ${BASE:-a:1}
