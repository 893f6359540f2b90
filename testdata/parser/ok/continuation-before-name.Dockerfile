\
  FROM a
\
\
 	RUN x
