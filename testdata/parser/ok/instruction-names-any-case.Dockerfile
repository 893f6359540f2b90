from a As B
rUN x
EnV A=1
