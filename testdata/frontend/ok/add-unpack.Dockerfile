FROM busybox
ADD a.tar /d/
ADD --unpack=false a.tar /d/
ADD --unpack=true a.tar https://example.com/b.tar /d/
ADD a.tar https://example.com/b.tar c.tar git@example.com:r /d/
ADD <<A a.tar /d/
text
A
ADD <<A /d/
text
A
