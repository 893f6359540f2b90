FROM a
COPY <<A <<B /x/
A
