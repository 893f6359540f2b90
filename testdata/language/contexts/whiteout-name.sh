mkdir d; touch d/.wh.x d/y
