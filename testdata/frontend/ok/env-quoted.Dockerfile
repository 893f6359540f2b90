FROM busybox
ENV A="a b" B='$A' C=c\ d D="x\$A" E=
ENV LEGACY   one  two 
ENV F="${A:+set}" G=${NONE:-"q r"} H=${A#a} I=${A%%b} J=${A/a/z}
