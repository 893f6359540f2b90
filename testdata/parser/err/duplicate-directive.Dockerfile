# syntax=a
# escape=`
# Syntax=b
FROM a
