from a As B
Run x
rUN y
from b
