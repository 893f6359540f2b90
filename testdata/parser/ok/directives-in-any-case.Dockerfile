#ESCAPE=`
#  Check = skip=all 
FROM a
RUN b `
  c
