FROM a
ENV A b=c "d  e"  
LABEL k  v w
