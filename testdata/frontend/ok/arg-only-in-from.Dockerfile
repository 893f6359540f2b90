ARG A=busybox
ARG B=$A
FROM $B
RUN echo $A
