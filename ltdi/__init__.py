"""Lt-Di: the weights of a network's head, generated for a task instead of trained.

Shapes, in every docstring:
    B tasks in a batch    N n_way     K n_shot    Q n_query a class
    F features            D generated weights     P recorded trajectory points
    H hidden units of the head

Imports go down only: floor 0 is ``errors store seeding nn training``, floor 1 ``datasets bodies weights``,
floor 2 ``heads tasks``, floor 3 ``closed_form adaptation diffusion metrics
sharpness``, floor 4 ``trajectories reptile``, floor 5 ``methods``; ``pipeline`` stands above all of them.
"""
