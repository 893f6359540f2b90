FROM a
ENV key the rest  of the line = "x"
LABEL "a b" c
ENV a=b c="d e" f='g h' i=j\ k l= m"n"=o
LABEL "com.example/x y"="a\
 b" e="="
