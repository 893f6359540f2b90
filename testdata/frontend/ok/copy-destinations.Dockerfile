FROM busybox
WORKDIR /w
COPY a b
COPY a b/
COPY a .
COPY a ./
COPY a /b/.
COPY a ..
COPY a ""
COPY a /x/../y
COPY a $UNSET
