FROM busybox
LABEL "a b"="c d" e='f $g' h=i\ j k="l\"m"
LABEL legacy the rest "of it"
