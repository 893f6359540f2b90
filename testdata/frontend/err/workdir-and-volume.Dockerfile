FROM busybox
VOLUME ${A}
WORKDIR ${A:?no}
USER ${B?none}
