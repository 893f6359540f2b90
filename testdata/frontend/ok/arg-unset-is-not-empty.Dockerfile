FROM busybox
ARG A
ENV B=${A-unset} C=${A:-unset} D=${A+set}
ARG A=
ENV E=${A-unset} F=${A:-unset} G=${A+set}
